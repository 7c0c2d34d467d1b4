"""What tests, benchmarks and the demo share: local servers, drawn pictures, runs of the command line."""

"""ControlNets: what they are, what they learn from, the loop that trains them. No Prefect; Ray in launch.py only."""

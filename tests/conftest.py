"""For all tests."""

import signal

# A shell that runs them in the background has Ctrl-C ignored, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

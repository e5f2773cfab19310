"""The questions and the command line: the only place that knows all three floors."""

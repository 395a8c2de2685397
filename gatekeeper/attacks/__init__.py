"""Plant a backdoor, harmlessly: for the demo, the tests and the lab. Detectors never import this."""

"""Metrics of recognition and explanation: functions, and stateful forms of them for training."""

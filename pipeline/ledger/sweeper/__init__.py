"""The sweeper's door to the ledger.

``maintenance``  the lead, due retries, dead workers, overdue batches, deadlines, idle lanes, old dead letters
``lane_metrics`` the pace of lanes, and which workers are alive
``repairs``      what scripts that the server interrupted have left
"""

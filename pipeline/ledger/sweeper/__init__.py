"""The sweeper's door to the ledger.

``maintenance``  release, due retries, deadlines, idle lanes
``lane_metrics`` the pace of lanes, and which workers live
``repairs``      what scripts that the server stopped have left
"""

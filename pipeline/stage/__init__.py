"""What a stage and its worker know of each other.

``protocols`` what a worker asks of a stage's own code
``isolation`` the search for the offending rows of a batch that raised
"""

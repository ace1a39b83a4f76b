"""The words every part of Scoreline shares: frozen types that import nothing of ours.

``stages``   the three stages, priorities, and the states a request moves through
``ids``      request ids (UUIDv7) and their text form
``lanes``    one (stage, pool, model version): what a bell rings and a worker serves
``attempts`` what each kind of failure charges to a request
``work``     what a worker holds of a request, and the outcomes it can settle
``status``   the status document a producer reads
``problems`` one exception for each problem the outside can meet
``failures`` what can go wrong inside a stage, and what becomes of it
"""

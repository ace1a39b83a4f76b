"""Where the shipped models come from.

``credit_default``   trains the credit model (``fitting``) on the loan applications
``relevance_minilm`` converts the relevance model from an installed package
``command``          options that their commands share
"""

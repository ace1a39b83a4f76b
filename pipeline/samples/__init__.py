"""What ships with the package: real loan applications (``credit_data``), and the models that score them."""

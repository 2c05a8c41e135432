"""Networks: a backbone, ASPP, and heads that grow with the classes."""

"""Build what is uploaded to Lambda: the function's zip and the layer.

The standard library and pip suffice, so that ``sam build`` runs it with any Python.
"""

"""A local AWS Lambda: real runtime processes behind the Runtime API and the Invoke API."""

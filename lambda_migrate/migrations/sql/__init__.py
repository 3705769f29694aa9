"""Scripts as text: splits them into statements, checks and classifies these, makes excerpts."""

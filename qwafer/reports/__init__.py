"""What is written for a reader: documents, tables and figures."""

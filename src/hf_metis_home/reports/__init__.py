"""What is shown of an evaluation: sentences, figures, an HTML page, and results for the Hub."""

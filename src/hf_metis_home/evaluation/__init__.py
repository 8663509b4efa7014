"""Answers to questions with both branches as one table of outcomes, and everything that follows from the table."""

"""What a search asks for: which rows, like which examples, and how sure an answer is."""

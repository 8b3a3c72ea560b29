"""The master as it is stored: its entries, its template, and what of both a plan takes."""

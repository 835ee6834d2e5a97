"""Networks written from their papers, which no library has as they were published."""

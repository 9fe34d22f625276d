"""How good an adapter is: loss and exact match on clients' own and on global test sets."""

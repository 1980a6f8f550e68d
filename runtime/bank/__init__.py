"""The bank: ledger, admission, store and the one service in front of them."""

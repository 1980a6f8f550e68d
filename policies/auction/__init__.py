"""The strategy auction: bids, jury, weights, winner."""

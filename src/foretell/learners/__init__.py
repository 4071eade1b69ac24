"""What can be learned: the contract, and one folder a domain."""

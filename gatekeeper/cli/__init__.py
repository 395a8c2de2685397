"""The terminal: parse, call one function, render, exit by the contract."""

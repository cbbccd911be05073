"""What the promises of this suite are written with: processes, raw calls, and the comparison of two answers."""

"""What is only compared: the plain path, a GPT, the recipe search, the benchmark. The library imports none of it."""

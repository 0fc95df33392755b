"""Connects an app with its settings, key names, codecs and computations. Producers, workers, commands and pages use it."""

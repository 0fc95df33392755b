"""What connects an app with its settings, names, codecs and computations; producers, workers, commands and pages use it."""

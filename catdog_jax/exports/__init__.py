"""Files for other programs: a run's model as Keras, TFLite or StableHLO, checked against it."""

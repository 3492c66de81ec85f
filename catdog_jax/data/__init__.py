"""Photos → splits of NumPy arrays and batches; alone imports TensorFlow, and lazily."""

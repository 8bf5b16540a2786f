"""The queues a stream can run on, behind one contract."""

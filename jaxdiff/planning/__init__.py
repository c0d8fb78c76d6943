"""What a run needs, known before it starts: shapes, operations, memory and traffic of its step.

`plan` says what a plan is, `compiled` and `estimate` make one, `batches` chooses among many, and
`report` prints it. They stand on a run's `blueprint`, which reads and computes nothing.
"""

"""What must be true: Great Expectations suites and the gates that hold every stage to them."""

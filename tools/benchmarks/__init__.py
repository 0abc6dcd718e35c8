"""What `captioner benchmark` measures: workers in processes of their own, and the report."""

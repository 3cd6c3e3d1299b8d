"""Networks in the information plane, by estimators that disagree."""

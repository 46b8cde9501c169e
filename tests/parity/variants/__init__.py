"""Forms of the rivals that are no reducers of ours, named as plug-ins from outside are."""

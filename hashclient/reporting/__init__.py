"""Reports, which hand over matches to a body (an authority or a hotline) once, with proof."""

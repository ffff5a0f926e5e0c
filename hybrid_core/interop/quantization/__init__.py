"""Published quantisation schemes, and the matrices of a design that they store in fewer bits."""

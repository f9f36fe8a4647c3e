"""Networks, their stages from input to head, and the image sizes of their published weights."""

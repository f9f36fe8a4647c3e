"""Networks, their stages from input to head, and the image sizes that their published weights want."""

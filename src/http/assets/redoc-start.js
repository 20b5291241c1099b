Redoc.init("/openapi.json", { hideLogo: true }, document.getElementById("redoc"));

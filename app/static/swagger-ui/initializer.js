// A file of its own, so that the page's content policy can refuse every inline script.
window.ui = SwaggerUIBundle({
  url: document.getElementById("swagger-ui").dataset.openapiUrl,
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // The default sends the API's description to a validator elsewhere.
  validatorUrl: null,
  // Responses are described as open, for fields of later releases. Examples would show an invented one.
  responseInterceptor: (response) => {
    if (response.ok && response.url.endsWith("/openapi.json")) {
      const known = (name, value) => (name === "additionalProperties" && value === true ? undefined : value);
      response.text = JSON.stringify(JSON.parse(response.text, known));
    }
    return response;
  },
});

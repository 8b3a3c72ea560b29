"use strict";
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null, supportedSubmitMethods: ["get", "head", "put", "post", "delete"] });

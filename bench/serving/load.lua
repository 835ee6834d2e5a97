-- Posts one file again and again; arguments: the file with the body, and its content type. Prints the result as JSON.

function init(arguments)
   local file = assert(io.open(arguments[1], "rb"))
   wrk.body = file:read("*a")
   file:close()
   wrk.method = "POST"
   wrk.headers["Content-Type"] = arguments[2]
   posted = wrk.format()
end

function request()
   return posted
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"seconds": %f, "requests": %d, "p50_ms": %f, "p99_ms": %f, "refused": %d, "broken": %d}\n',
      summary.duration / 1e6, summary.requests, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      errors.status, errors.connect + errors.read + errors.write + errors.timeout
   ))
end

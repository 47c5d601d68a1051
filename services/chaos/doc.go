// Package chaos holds the failure tests: the real binaries as processes, on real NATS servers and a real Postgres, which are
// killed, frozen, restarted and cut off from each other while they work. What must hold afterwards is asserted; how fast it
// was is printed.
//
// "make test" runs a short version. "make chaos" runs the whole, prints what it measured, and takes ARGS="-seed 7 -kills 50
// -duration 1m": the same seed strikes the same victims in the same way with the same pauses.
package chaos

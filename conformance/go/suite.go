// Package conformance pins the version of the Go SDK whose own integration tests the suite runs.
package conformance

import _ "github.com/apache/beam/sdks/v2/go/test/integration/primitives" // its tests are the suite

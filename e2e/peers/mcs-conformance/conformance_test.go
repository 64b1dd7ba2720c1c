// The conformance suite of the Multi-Cluster Services API, built as a test binary.
package conformance_test

import (
	"testing"

	"sigs.k8s.io/mcs-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.TestConformance(t)
}

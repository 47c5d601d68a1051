package security

import (
	"testing"

	"nightshift.dev/pkg/scan/scantest"
)

func TestRules(t *testing.T) { scantest.Rules(t, Rules) }

package aws_test

import (
	"sync"
	"testing"

	"nightshift.dev/pkg/aws"
)

func TestKept(t *testing.T) {
	t.Parallel()
	type counter struct{ sync.Mutex }
	type other struct{ sync.Mutex }
	a, b := &aws.Session{}, &aws.Session{}
	got := make([]*counter, 50)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i] = aws.Kept[counter](a) })
	}
	all.Wait()
	for _, c := range got {
		if c != got[0] {
			t.Fatal("one session has two of a type")
		}
	}
	if aws.Kept[counter](b) == got[0] {
		t.Error("two sessions share one")
	}
	if any(aws.Kept[other](a)) == any(got[0]) {
		t.Error("two types share one")
	}
}

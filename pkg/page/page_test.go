package page_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

type key struct {
	Cost float64
	ID   string
}

func TestTokenComesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := key{rapid.Float64().Draw(t, "cost"), rapid.StringN(0, 20, -1).Draw(t, "id")}
		bind := rapid.SliceOfN(rapid.StringN(0, 5, -1), 0, 3).Draw(t, "bind")
		var out key
		more, err := page.Parse(page.Token(in, bind...), &out, bind...)
		if err != nil || !more || out.Cost != in.Cost {
			t.Fatalf("%+v became %+v, %v", in, out, err)
		}
		if _, err := page.Parse(page.Token(in, bind...), &out, append(bind, "x")...); !errors.Is(err, errs.InvalidArgument) {
			t.Fatalf("a token of another filter was taken: %v", err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add(page.Token(key{1, "a"}))
	f.Fuzz(func(t *testing.T, text string) {
		var k key
		if more, err := page.Parse(text, &k); err != nil && !errors.Is(err, errs.InvalidArgument) || more && err != nil {
			t.Errorf("%v %v", more, err)
		}
	})
}

func TestSize(t *testing.T) {
	t.Parallel()
	for asked, want := range map[int32]int{0: 50, 1: 1, 1000: 1000, 1001: 1000} {
		if got := page.Size(asked); got != want {
			t.Errorf("%d: %d, want %d", asked, got, want)
		}
	}
}

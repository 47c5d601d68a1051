package aws

// Kept returns the T that belongs to the session, made as its zero value when
// first asked for: packages above keep there what they have read of the
// account and region, so that it is read once. It lives as long as the
// session. T must be safe for concurrent use, and its own type: two packages
// that ask for the same T share it.
func Kept[T any](s *Session) *T {
	v, ok := s.kept.Load((*T)(nil))
	if !ok {
		v, _ = s.kept.LoadOrStore((*T)(nil), new(T))
	}
	return v.(*T)
}

module writ.example/relying

go 1.25

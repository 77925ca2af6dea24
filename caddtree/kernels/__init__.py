"""Operations of a round that plain torch does too slowly, each beside its plain reference."""
